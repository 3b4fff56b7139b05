"""Other papers' mask heads, a file each. Every file in this folder is imported with the kit.

Re-implemented from their descriptions; ``# DEVIATION:`` marks where one is not its paper's or its
public code's. ``ground_truth`` makes what some learn from, ``shape_prior`` what VRS&SP remembers.

===============  ==================================================================================
``mask_rcnn``    amodal Mask R-CNN: one head, on whole masks
``sln``          SLN: one map per layer, visible or hidden behind 1, 2, ... objects; their sum
``asn``          ASN: is it occluded? The mask heads see what that answer is made from
``bcnet``        BCNet: the occluder is segmented first, and helps with the object behind it
``aisformer``    AISFormer: a query for each mask of an object, and for its occluder's
``vrs_sp``       VRS&SP: a second look where the first saw the object, and shapes of its class
===============  ==================================================================================
"""
