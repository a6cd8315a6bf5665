"""Triangle meshes: the surface of any scene with a texture, and splats on the surface of any mesh."""
