"""CelebA at 64x64, from its official files."""
