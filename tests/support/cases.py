"""Environments and settings that agents and exports are tested with."""

HERE = "tests.support.envs"
CASES = {
    "plain": (f"{HERE}:Vector", ()),
    "normalized": (f"{HERE}:WideVector", ("env.normalize_obs=true", "env.clip_obs=2")),
    "masked": (f"{HERE}:Masked", ()),
    "nested": (f"{HERE}:Nested", ("env.normalize_obs=true",)),
    "gru": (f"{HERE}:Vector", ("model.recurrent=gru",)),
    "lstm": (f"{HERE}:WideVector", ("model.recurrent=lstm", "env.normalize_obs=true")),
    "pictures": (f"{HERE}:Picture", ("model.torso=nature_cnn", "env.frame_stack=2")),
    "planes": (f"{HERE}:Planes", ("env.frame_stack=3", "model.torso=mlp")),
    "frames": (f"{HERE}:WideVector", ("env.frame_stack=4", "env.normalize_obs=true")),
    "nested frames, lstm": (f"{HERE}:NestedFrames", ("env.frame_stack=2", "model.recurrent=lstm")),
}
