"""A registry of one's own: a robot and an entry for the records of `bridge_features`."""

OWN = """\
schema: embodimix.registry/v1
robots:
  desk_arm:
    description: an arm of six joints on a desk
    control_hz: 25
    cameras: [base_0_rgb]
    joint: {state: {arm0: 0-5, gripper0: 6}, action: {arm0: 0-5, gripper0: 6}}
adapters:
  desk_logs:
    title: logs of the desk arm
    aliases: [desk]
    format: rlds
    robot: desk_arm
    control_mode: joint_position
    units: metric
    cameras: {base_0_rgb: observation/image_0}
    state:
      {arm0: {from: "observation/state[0:6]"}, gripper0: {from: "observation/state[6]", open: 1, closed: 0}}
    action: {arm0: {from: "action[0:6]"}, gripper0: {from: "action[6]", open: 1, closed: 0}}
"""
