"""Labels from models: what is asked, of whom, and what is accepted."""
