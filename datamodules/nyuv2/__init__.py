"""NYU Depth V2: colour (teacher) paired with depth (student), in the image and in voxels."""
