"""What of timm's variants can be pruned, as timm builds them, and whether removing is the same as not reading.

    python -m pip install timm
    python benchmarks/variants.py [NAME ...] [--threads 1] [--markdown variants.md] [--out variants.parquet]

Some 130 variants of most families of timm at full depth and width, small images, random weights and a classifier of ten
classes. `half` is the share of weights that is gone once every group has lost half of its pairings, each neuron once,
`by default` with the kinds pruned by default. `differs by` is how far the logits of the network without half of
the pairings of every group of the default kinds are from those of the network that does not read these, relative to
the largest logit, in double precision: both are made by the project's own code, but run differently. `--markdown` is
written anew after each row, so that a run that is stopped leaves what it has.
"""

import copy
import time
from pathlib import Path
from typing import Any

import torch
from architectures import Architecture, each_neuron_once, markdown, prepared, share_removed
from measuring import Table, announce, machine, parser, write

from workloads.config import DEFAULT_KINDS
from workloads.measuring.evaluation import parameter_count
from workloads.structure.groups import Maps, Structure, apply
from workloads.structure.network import Network
from workloads.structure.trial import ignore, running_eagerly, some_of

PIXELS = {
    64: """
        resnet10t seresnet18 mobilenetv2_035 efficientnet_lite0 mobilenetv3_small_050 regnetx_002 regnety_002
        densenet121 vovnet39a convnextv2_atto convnext_zepto_rms ghostnet_050 repghostnet_050 rexnet_100 resnest14d
        ecaresnet26t skresnet18 lcnet_035 lcnetv2_small mnasnet_small semnasnet_050 spnasnet_100 tinynet_e fbnetc_100
        hardcorenas_b mixnet_s mobileone_s1 repvgg_a0 gernet_s dla46x_c resnetv2_18 starnet_s050 fasternet_t0
        inception_next_atto edgenext_xx_small fastvit_t8 mobilevit_xxs mobilevitv2_050 shvit_s1 swiftformer_xs
        efficientvit_b0 efficientvit_m0 repvit_m1 poolformer_s12 mambaout_femto test_vit test_resnet test_convnext
        test_efficientnet test_byobnet test_mambaout test_nfnet test_coatnet test_vit_relpos vit_tiny_patch16_224
        deit_tiny_patch16_224 levit_128s xcit_nano_12_p8_224 pit_ti_224 mixer_s16_224 resmlp_12_224 gmlp_ti16_224
        gmixer_12_224 eva02_tiny_patch14_224 pvt_v2_b0 cait_xxs24_224 convit_tiny coat_tiny crossvit_tiny_240
        tiny_vit_5m_224 efficientformerv2_s0 efficientvim_m1 eca_vovnet39b ese_vovnet19b_slim_dw resnetblur18
        legacy_seresnet18 mobilenet_edgetpu_100 tf_mixnet_s tf_mobilenetv3_small_075 rexnetr_100 regnetz_005
        ghostnetv3_050 hgnetv2_b0 cspnext_tiny cs3darknet_focus_s darknet17 sedarknet21 resnext26ts eca_resnext26ts
        seresnext26ts gcresnext26ts botnet26t_256 eca_botnext26ts_256 lambda_resnet26t resnext50_32x4d
        ecaresnext26t_32x4d seresnext26t_32x4d res2next50 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
        swinv2_cr_tiny_224 convmixer_768_32 nfnet_l0 nf_regnet_b0 eca_nfnet_l0 visformer_tiny nest_tiny
        twins_svt_small focalnet_tiny_srf davit_tiny hiera_tiny_224 sam2_hiera_tiny hieradet_small mvitv2_tiny
        flexivit_small vit_srelpos_small_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
        tnt_s_legacy_patch16_224 sequencer2d_s caformer_s18 convformer_s18 poolformerv2_s12 rdnet_tiny nextvit_small
        lowformer_b0 iformer_t csatv2 cpubone_nano gcvit_xxtiny coatnet_pico_rw_224 coatnext_nano_rw_224
        maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256 efficientnetv2_rw_t gc_efficientnetv2_rw_t
        fbnetv3_b regnetv_040 regnetz_b16 resnet32ts gcresnet33ts seresnet33ts resnetaa34d resnetrs50 ecaresnetlight
        seresnetaa50d skresnext50_32x4d selecsls42 hgnet_tiny hrnet_w18_small legacy_xception xception41p tresnet_m
        cspresnet50 cspresnext50 cspdarknet53 darknetaa53 densenetblur121d dpn48b
    """,
    96: "inception_v3 inception_v4 inception_resnet_v2",
    128: "halo2botnet50ts_256 lamhalobotnet50ts_256",
    224: "efficientformer_l1 haloregnetz_b",
    256: "bat_resnext26ts halonet_h1 sehalonet33ts sebotnet33ts_256",
}
COLUMNS = ("variant", "weights", "pixels", "groups", "kept", "by default", "half", "differs by", "seconds", "why kept")


def variant(name: str, pixels: int) -> Architecture:
    """A variant for images of this size; those that take the size from their own settings are left to these."""
    try:
        sized = Architecture("timm", name, {"img_size": pixels}, pixels)
        sized.build()
        return sized
    except TypeError:
        return Architecture("timm", name, {}, pixels)


@torch.no_grad()
def difference(network: Network, structure: Structure, pixels: int) -> float:
    """How far removing half of the pairings of every group is from not reading them, relative to the largest logit."""
    generator = torch.Generator().manual_seed(0)
    ignoring, removing = (copy.deepcopy(network.model).double() for _ in range(2))
    narrowed = network.structure
    for group in structure.groups:
        if group.size == 1:
            continue
        stay = some_of(group, few=True, generator=generator)
        ignore(ignoring, group, stay)
        selection = torch.eye(group.size)[stay]
        apply(removing, narrowed.groups[group.number], Maps(selection, selection))
        narrowed = narrowed.narrowed(group.number, len(stay))
    images = torch.randn(2, 3, pixels, pixels, generator=generator).double()
    with running_eagerly():
        expected, found = ignoring(images), removing(images)
    return float((found - expected).abs().max() / expected.abs().max())


def row(name: str, pixels: int) -> dict[str, Any]:
    """What stands in the table for one variant."""
    architecture = variant(name, pixels)
    before = parameter_count(architecture.build())
    found: dict[str, Any] = dict.fromkeys(COLUMNS) | {"variant": name, "weights": before, "pixels": pixels}
    started = time.process_time()
    try:
        network = prepared(architecture)
    except (ValueError, RuntimeError) as error:  # some do not take images of this size
        return found | {"why kept": f"refused: {error}"[:160]}
    seconds = time.process_time() - started
    structure = network.structure
    default = structure.of_kinds(DEFAULT_KINDS)
    found |= {"groups": len(structure.groups), "kept": len(structure.kept), "seconds": f"{seconds:.1f}"}
    found["by default"] = share_removed(network, default.groups, before)
    found["half"] = share_removed(network, each_neuron_once(structure), before)
    found["differs by"] = f"{difference(network, default, pixels):.0e}"
    if structure.kept:
        found["why kept"] = "; ".join(f"{layer or 'the network'}: {reason}" for layer, reason in structure.kept[:1])[
            :120
        ]
    return found


def main() -> None:
    options = parser(__doc__, "variants.parquet")
    options.add_argument("names", nargs="*", help="of the variants; all if none are given")
    options.add_argument("--markdown", type=Path, help="write the table here too")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    conditions = machine("torch", "timm")
    announce(conditions)
    table = Table("Share of weights removed at half of the pairings")
    for pixels, names in PIXELS.items():
        for name in names.split():
            if not arguments.names or name in arguments.names:
                table.add(**row(name, pixels))
                if arguments.markdown:
                    arguments.markdown.write_text(markdown(table.rows, COLUMNS))
    write(arguments.out, conditions, table)


if __name__ == "__main__":
    main()
