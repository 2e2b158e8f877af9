"""Where our reading of an Open X-Embodiment dataset differs from the registries', and why; see `oxe_evidence`."""

# Where datasets keep numbers of which no ranges are published; words as in `tests.support.oxe_values`.
_DROID = {
    "action_dict/joint_position": "j7",
    "action_dict/gripper_position": "closed",
    "action_dict/cartesian_velocity": "xyz rot",
}
_TDROID = {"observation/cartesian_position": "xyz rpy", "observation/gripper_position": "open"}
_GNM = {"observation/position": "xy", "observation/yaw": "yaw", "observation/state": "xy yaw"}
_XYZ_ROT_OPEN = {"action": "xyz rot open"}
MORE_STATES: dict[str, dict[str, str]] = {
    "toto": {"observation/state": "j7"},
    "viola": {"observation/joint_states": "j7"},
    "ucsd_kitchen": {"observation/state": "j7 zeros14"},
    "nyu_rot": {"observation/state": "xyz rpy closed"},
    "robo_net": {"observation/state": "xyz yaw open"},
    "stanford_mask_vit": {"observation/end_effector_pose": "xyz yaw open"},
    "asu_table_top": {"ground_truth_states/EE": "xyz rpy", "observation/state": "j6 closed"},
    "cmu_stretch": {"observation/state": "xyz open"},
    "libero": {"observation/state": "xyz rotvec open*0.04 open*-0.04"},
    "tdroid": _TDROID,
    "ppgm": _TDROID,
    "droid_ee_delta": {"observation/cartesian_position": "xyz rpy", "observation/gripper_position": "closed"},
    "imperialcollege_sawyer_wrist_cam": {"observation/state": "open"},
    "berkeley_gnm_recon": _GNM,
    "berkeley_gnm_cory_hall": _GNM,
    "berkeley_gnm_sac_son": _GNM,
    "berkeley_mvp": {"observation/pose": "xyz quat"},
    "austin_sailor": {"observation/state": "xyz quat open/12.85"},
    "austin_sirius": {"observation/state": "j7 open/12.55"},
    "dobbe": {"observation/state": "xyz rpy open"},
    "maniskill": {"observation/tcp_pose": "xyz wxyz"},
    "rh20t": {"observation/gripper_width": "open*0.08"},
    "iamlab_cmu_pickup_insert": {"observation/state": "j7 open zeros12"},
    "utaustin_mutex": {"observation/state": "j7 open/13.21 columns"},
    "austin_buds": {"observation/state": "j7 open/12.5 columns"},
    "cmu_play_fusion": {"observation/state": "j7 open/11.765"},
}
MORE_ACTIONS: dict[str, dict[str, str]] = {
    "bridge_oxe": {"action/world_vector": "xyz", "action/rotation_delta": "rot", "action/open_gripper": "open"},
    "language_table": {"action": "xy"},
    "stanford_kuka_multimodal": {"action": "xyz yaw"},
    "maniskill": {"action": "xyz*10 rot*10 +-open"},
    "cmu_franka_exploration": {"action": "xyz rot open zeros1"},
    "utokyo_xarm_bimanual": {"action": "left:xyz left:rot left:closed xyz rot closed"},
    "robo_net": {"action": "xyz yaw +-closed"},
    "berkeley_mvp": {"action": "j7 closed"},
    "berkeley_rpt": {"action": "j7 closed"},
    "kaist_nonprehensile": {"action": "xyz rot zeros14"},
    "tokyo_u_lsmo": _XYZ_ROT_OPEN,
    "dlr_sara_pour": {"action": "xyz rot closed"},
    "dlr_sara_grid_clamp": {"action": "xyz rot closed"},
    "asu_table_top": _XYZ_ROT_OPEN,
    "stanford_robocook": _XYZ_ROT_OPEN,
    "uiuc_d3field": {"action": "xyz"},
    "cmu_playing_with_food": {"action": "xyz quat open"},
    "cmu_play_fusion": {"action": "xyz quat open zeros1"},
    "berkeley_gnm_recon": {"action": "xy", "action_angle": "xy yaw"},
    "berkeley_gnm_cory_hall": {"action": "xy", "action_angle": "xy yaw"},
    "berkeley_gnm_sac_son": {"action": "xy", "action_angle": "xy yaw"},
    "droid": _DROID,
    "droid_ee_delta": _DROID,
    "roboset": {"action": "j7 +-closed"},
    "rh20t": {"action/tcp_base": "xyz rpy", "action/gripper": "open"},
    "aloha_mobile": {"action": "left:j6 left:open j6 open xy"},
    "aloha_static": {"action": "left:j6 left:open j6 open"},
    "libero": {"action": "xyz rot +-closed"},
    "tdroid": _XYZ_ROT_OPEN,
    "ppgm": _XYZ_ROT_OPEN,
}
# Entry -> why it differs; the evidence itself is the entry's comment in pipelines/adapters_oxe.yaml.
DIFFERENCES: dict[str, str] = {}
