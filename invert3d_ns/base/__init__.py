"""What every other room needs and that needs none of them: errors, files, pictures, random streams."""
