"""Words to scene: edits as data, the views they lead to, and splats that follow."""
