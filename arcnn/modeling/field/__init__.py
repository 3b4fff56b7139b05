"""Other papers' mask heads, a file each. Every file in this folder is imported with the kit.

===============  ==================================================================================
``mask_rcnn``    amodal Mask R-CNN: one head, on whole masks
``bcnet``        BCNet: the occluder is segmented first, and helps with the object behind it
===============  ==================================================================================
"""
