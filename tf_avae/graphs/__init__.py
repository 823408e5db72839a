"""Programs of others on disk: SavedModels and Keras models, opened, checked and made flat."""
