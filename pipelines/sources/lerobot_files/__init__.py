"""What a LeRobot dataset is made of: metadata, tables, videos, and the units that none of them states."""
