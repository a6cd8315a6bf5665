"""Edit and create 3D with words, as nerfstudio methods."""

__version__ = "0.1.0"
