"""Other papers' mask heads, a file each. Every file in this folder is imported with the kit.

===============  ==================================================================================
``mask_rcnn``    amodal Mask R-CNN: one head, on whole masks
``vrs_sp``       VRS&SP: a second look where the first saw the object, and shapes of its class
===============  ==================================================================================
"""
