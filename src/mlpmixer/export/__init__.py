"""Export: standalone model files, with preprocessing and class names inside, validated before they get their names."""
