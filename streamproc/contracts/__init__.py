"""Floor 2: what data is, declared once."""
