"""Every method that ns-train offers, on one screen."""

import sys

from invert3d_ns import compat
from invert3d_ns.base import errors

errors.install_excepthook()
compat.install_remedies()

# nerfstudio imports this module while it collects its own methods: the cures above come before anything of it is used.
from nerfstudio.plugins.types import MethodSpecification  # noqa: E402

from invert3d_ns.methods.aligned import aligned_objects  # noqa: E402
from invert3d_ns.methods.aligned_field import aligned_field  # noqa: E402
from invert3d_ns.methods.invert3d import InversionPipelineConfig  # noqa: E402
from invert3d_ns.methods.stylization import stylization  # noqa: E402
from invert3d_ns.methods.stylization_joint import joint_stylization  # noqa: E402
from invert3d_ns.methods.text_to_splats import text_to_splats  # noqa: E402
from invert3d_ns.runs.nerfstudio_commands import adopt_nerfstudio_commands  # noqa: E402
from invert3d_ns.runs.trainer import PhasedTrainerConfig  # noqa: E402

adopt_nerfstudio_commands()

FLAGS_THAT_MATTER = """Of the flags below these matter; the others have defaults that rarely need another value:
  --data PATH                 a .ply of splats, a folder of posed images, or a run; the demo scene if not given
  --prompt "WORDS"            edit the scene once it is words: "in van gogh style", "blue instead of red"
  --output-dir PATH           runs go to PATH/SCENE/METHOD/TIME (outputs)
  --vis viewer                watch in the browser; tensorboard is the default
  --machine.device-type cpu   where to compute; cuda is the default where there is a GPU
  --machine.seed N            of everything random (42)
  --load-config RUN           go on with a run, with its own settings
  --pipeline.prior NAME       the multi-view diffusion model: bundled, mvdream-sd2.1, or a path
  --pipeline.steps N          steps of learning words (400 for bundled); 0: words in one look
  --pipeline.vectors N        number of words (27 in one look, 32 from a word)"""
"""What the --help of a method says first, after what it is; its 700 lines are in no order."""


FLAGS_OF_TEXT = """Of the flags below these matter; the others have defaults that rarely need another value:
  --prompt "WORDS"            what to make: "a blue mug with white dots"
  --pipeline.negative-prompt  words to keep away from
  --pipeline.steps N          steps of following the words; 0: first splats from the prior's views, within seconds
  --pipeline.start.kind blob  start from a gray ball in place of the prior's own views
  --data PATH                 start from these: splats (a file or a run), or a .ply of points
  --pipeline.prior NAME       the diffusion model: bundled, mvdream-sd2.1, sd2.1-base, or a path
  --output-dir PATH           runs go to PATH/PROMPT/METHOD/TIME (outputs)
  --vis viewer                watch in the browser, and change the prompt meanwhile
  --machine.seed N            of everything random (42)
  --load-config RUN           go on with a run, with its own settings
and, as the last words of the command, what guides: pipeline.guidance:ism or pipeline.guidance:sds in place of ge3d"""
"""The same for methods that make a scene of words."""

FLAGS_OF_PROMPTS = """Of the flags below these matter; the others have defaults that rarely need another value:
  --prompts "WORDS" "WORDS"   what the objects shall be, alike in structure: "a wooden chair" "a red armchair"
  --data PATH                 the first object, which stays as it is: splats (a file or a run); its words come first
  --pipeline.edge P           how often what lies between two objects is looked at (0.5); 0: they drift apart
  --pipeline.start.align A    how far they are drawn to one structure, 0 to 1
  --pipeline.steps N          steps of following the words; 0: first objects from the prior's views
  --pipeline.prior NAME       the multi-view diffusion model: bundled, mvdream-sd2.1, or a path
  --output-dir PATH           runs go to PATH/PROMPTS/METHOD/TIME (outputs)
  --vis viewer                watch in the browser, and morph from one object to the other
  --machine.seed N            of everything random (42)
  --load-config RUN           go on with a run, with its own settings
and, as the last words of the command, what guides: pipeline.guidance:ge3d or pipeline.guidance:ism in place of sds"""
"""The same for methods that make several objects."""


FLAGS_OF_STYLES = """Of the flags below these matter; the others have defaults that rarely need another value:
  --data PATH                 a .ply of splats, a run, or a folder of posed images; the demo scene if not given
  --prompt "WORDS"            how it shall look: "in van gogh style", "at night", "a pencil sketch"
  --prompts "WORDS" "WORDS"   several styles, one after the other, side by side in one scene
  --pipeline.free opacities   what may change besides colors; nothing if not given, and geometry stays to the bit
  --pipeline.towers NAME ...  CLIP models that are followed: bundled-crops, ViT-B-32/laion2b_s34b_b79k, a folder
  --pipeline.steps N          steps of each style
  --pipeline.region.box ...   xmin ymin zmin xmax ymax zmax: where the style goes
  --output-dir PATH           runs go to PATH/SCENE/METHOD/TIME (outputs)
  --vis viewer                watch in the browser, change words meanwhile, switch styles
  --machine.seed N            of everything random (42)"""
"""The same for methods that make styles."""


def _description(method: str, text: str, flags: str = FLAGS_THAT_MATTER) -> str:
    """What the method is; in its own --help, though not in the list of all methods, the flags to know."""
    return f"{text}\n\n{flags}" if method in sys.argv else text


invert3d = MethodSpecification(
    config=PhasedTrainerConfig(method_name="invert3d", pipeline=InversionPipelineConfig()),
    description=_description(
        "invert3d",
        "Invert3D: a 3D scene (posed images, or splats in a .ply) becomes words of a multi-view prior, which --prompt "
        "then edits.",
    ),
)
invert3d_edit = MethodSpecification(
    config=PhasedTrainerConfig(method_name="invert3d-edit", pipeline=InversionPipelineConfig(splat_steps=0, steps=0)),
    description=_description(
        "invert3d-edit",
        "Edit a scene that is words already with more words: --data is its run, --prompt says what to change.",
    ),
)
ge3d = MethodSpecification(
    config=text_to_splats("ge3d"),
    description=_description(
        "ge3d",
        "GE3D: splats from words, by distilling the trajectories along which a diffusion model edits their views.",
        FLAGS_OF_TEXT,
    ),
)
a3d = MethodSpecification(
    config=aligned_objects("a3d"),
    description=_description(
        "a3d",
        "A3D: several prompts become objects of one scene, part by part alike, with all that lies between them.",
        FLAGS_OF_PROMPTS,
    ),
)
a3d_nerf = MethodSpecification(
    config=aligned_field("a3d-nerf"),
    description=_description(
        "a3d-nerf",
        "A3D as published: the objects share one radiance field over places and weights; splats are fitted to it.",
        FLAGS_OF_PROMPTS,
    ),
)
clip_splat = MethodSpecification(
    config=stylization("clip-splat"),
    description=_description(
        "clip-splat",
        "CLIP stylization: a scene of splats takes on a style that words describe; its geometry stays.",
        FLAGS_OF_STYLES,
    ),
)
clip_splat_joint = MethodSpecification(
    config=joint_stylization("clip-splat-joint"),
    description=_description(
        "clip-splat-joint",
        "CLIP stylization of posed images: splats are fitted to them and to words at once.",
        FLAGS_OF_STYLES,
    ),
)
