"""The subcommands of the `invert3d` console script, one file each."""
