"""Words to scenes: edits of an inverted object, the views they give, and the splats that follow them."""
