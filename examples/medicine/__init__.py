"""Slices of a brain drawn by MONAI's network and inferer, and reconstructed from a quarter of their Fourier rows.

python -m examples.medicine [--quick] [--out FOLDER]

The data are axial slices, 48 x 48 points of 4 mm, of the MNI152 average brain (ICBM 2009a, in the package nilearn).
Four slabs are kept from the training, which takes some minutes. MONAI's DDIM and fastdiff have as many evaluations
each, and in the reconstructions as many passes through the network.
"""
