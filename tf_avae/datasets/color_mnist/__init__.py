"""ColorMNIST, from MNIST's files."""
