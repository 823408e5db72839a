"""Trained models on disk: encoders and classifiers, how they are opened, frozen and exported."""
