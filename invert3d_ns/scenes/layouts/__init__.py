"""Folders of posed images as other tools lay them out: transforms.json and its relatives, Blender's, COLMAP's."""
