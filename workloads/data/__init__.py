"""Data sets: labelled images as normalised batches, augmentation, and the cuts that split models see."""
