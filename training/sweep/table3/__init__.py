"""The paper's Table 3, on CelebA."""
