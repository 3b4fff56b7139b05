"""Other papers' mask heads, a file each. Every file in this folder is imported with the kit.

===============  ==================================================================================
``aisformer``    AISFormer: a query for each mask of an object, and for its occluder's
``mask_rcnn``    amodal Mask R-CNN: one head, on whole masks
===============  ==================================================================================
"""
