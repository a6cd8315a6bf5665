"""What a frozen prior thinks of rendered views, as gradients on them: one interface, and a file for each kind."""
