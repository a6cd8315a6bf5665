"""The frozen multi-view diffusion model. It never knows what a scene is."""
