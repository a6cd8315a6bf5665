"""3D that can be rendered from any camera with gradients."""
