"""MNIST (teacher) paired with MNIST-M (student)."""
