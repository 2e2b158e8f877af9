"""From native arrays to slots: adapters, rotation and gripper forms, limits."""
