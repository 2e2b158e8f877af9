"""From native arrays to the 18 slots: adapters, rotation and gripper forms, limits."""
