"""The paper's two solvable cases: probabilistic PCA (App. B) and the discrete circle (App. D)."""
