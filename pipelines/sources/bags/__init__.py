"""Bags: MCAP, rosbag2 and ROS 1 files, their messages and definitions, and what they say of episodes."""
