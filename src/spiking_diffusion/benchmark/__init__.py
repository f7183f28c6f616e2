"""How fast training and sampling are, beside the same networks written plainly."""
