"""Segment annotations: proposals of about 2 s from kinematics."""
