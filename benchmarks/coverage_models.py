"""The models that ``benchmarks/coverage.py`` streams, by name, each built with random weights.

A torchvision model has its plain name; one of another library has that library's name before a colon:
``timm:resnet18d``, ``ultralytics:yolo11n``, ``yolox:yolox-nano``, ``effdet:efficientdet_d0``. All but
torchvision are optional: what is not installed is left out, with a note.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from videoeff.serialize.models import without_weights

#: The optional libraries and the package that pip installs each from.
LIBRARIES = {
    "timm": "timm",
    "ultralytics": "ultralytics",
    "yolox": "pixeltable-yolox",
    "effdet": "effdet",
}

DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 20},
    "maskrcnn": {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 5},
    "keypointrcnn": {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 5},
    "retinanet": {"min_size": 160, "max_size": 256, "score_thresh": 0.0, "detections_per_img": 20},
    "fcos": {"min_size": 160, "max_size": 256, "score_thresh": 0.0, "detections_per_img": 20},
    "ssd300": {"score_thresh": 0.0, "detections_per_img": 20},
    "ssdlite320": {"score_thresh": 0.0, "detections_per_img": 20},
}
CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}

#: A small architecture of every family of timm; a family is a module of ``timm.models``.
TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "repvgg_a0",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mixnet_s",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_rmlp_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "dm_nfnet_f0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnety_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet18d",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim",
    "xception": "legacy_xception",
    "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p16_224",
}

#: One small network of every family and task of Ultralytics, as its configuration is called.
ULTRALYTICS = (
    "yolov3-tiny yolov5n yolov6n yolov8n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls yolov8n-ghost "
    "yolov8s-worldv2 yolov9t yolov10n yolo11n yolo11n-seg yolo11n-pose yolo11n-obb yolo11n-cls yolo12n "
    "yolo26n yolo26n-seg yolo26n-pose yolo26n-obb rtdetr-l"
).split()
YOLOX = ("yolox-nano", "yolox-tiny", "yolox-s")
EFFDET = (
    "efficientdet_d0 tf_efficientdet_lite0 efficientdetv2_dt cspresdet50 mixdet_m mobiledetv2_110d "
    "efficientdet_q0"
).split()


@dataclass(frozen=True)
class Built:
    """A model and what it is fed with.

    Attributes:
        model: in evaluation mode; it has never been called.
        kind: "image" (B, 3, H, W), "pair" of them, "clip" (B, 3, T, H, W), or "list" of (3, H, W).
        sizes: (H, W) of the input, or (T, edge) of a clip: those to try, the smallest first.
    """

    model: Any
    kind: str
    sizes: tuple[tuple[int, int], ...]


def library(name: str) -> str:
    """The library that a model is of."""
    return name.partition(":")[0] if ":" in name else "torchvision"


def names() -> tuple[list[str], list[str]]:
    """(every model whose library is installed, notes on what is left out)."""
    from torchvision.models import list_models

    found = [n for n in list_models() if not n.startswith("quantized")]
    notes = []
    for each, package in LIBRARIES.items():
        if importlib.util.find_spec(each) is None:
            notes.append(f"{each} is not installed, its models are left out (pip install {package})")
        elif each == "timm":
            import timm

            have = set(timm.list_models())
            families = timm.list_modules()
            found += [f"timm:{TIMM[f]}" for f in families if TIMM.get(f) in have]
            notes += [
                f"timm's family {f} has no architecture here; add one to TIMM"
                for f in families
                if TIMM.get(f) not in have
            ]
        else:
            listed = {"ultralytics": ULTRALYTICS, "yolox": YOLOX, "effdet": EFFDET}[each]
            found += [f"{each}:{n}" for n in listed]
    return found, notes


def build(name: str) -> Built:
    """The model of a name."""
    if ":" not in name:
        return _torchvision(name)
    kind, _, rest = name.partition(":")
    return {"timm": _timm, "ultralytics": _ultralytics, "yolox": _yolox, "effdet": _effdet}[kind](rest)


def _torchvision(name: str) -> Built:
    from torchvision.models import get_model

    options = without_weights(name)
    kind, size = "image", (96, 96)
    if name.startswith("vit_"):
        options["image_size"] = size[0] if name != "vit_h_14" else 98
        size = (options["image_size"],) * 2
    elif name == "maxvit_t":
        size = (224, 224)
    elif name.startswith("raft"):
        kind, size = "pair", (128, 128)
    elif name in CLIPS or "3d" in name or name in ("mc3_18", "r2plus1d_18"):
        kind, size = "clip", CLIPS.get(name, (8, 64))
    for prefix, extra in DETECTORS.items():
        if name.startswith(prefix):
            kind, size = "list", (120, 160)
            options.update(extra)
    return Built(get_model(name, **options).eval(), kind, (size,))


def _timm(name: str) -> Built:
    import timm

    model = timm.create_model(name, pretrained=False).eval()
    config: Any = model.default_cfg
    height, width = config["input_size"][1:]
    small = () if config.get("fixed_input_size") else ((96, 96), (98, 98), (128, 128))
    return Built(model, "image", (*small, (height, width)))


def _ultralytics(name: str) -> Built:
    import ultralytics

    wrapper: Any = getattr(ultralytics, "RTDETR" if name.startswith("rtdetr") else "YOLO")
    return Built(wrapper(f"{name}.yaml").model.float().eval(), "image", ((96, 96), (128, 128)))


def _yolox(name: str) -> Built:
    config = importlib.import_module("yolox.config").YoloxConfig.get_named_config(name)
    return Built(config.get_model().eval(), "image", ((96, 96),))


def _effdet(name: str) -> Built:
    import effdet

    size = (128, 128)
    model = effdet.create_model(name, pretrained=False, pretrained_backbone=False, image_size=size)
    return Built(model.eval(), "image", (size,))
