"""What a frozen prior thinks of rendered views, as gradients on them."""
