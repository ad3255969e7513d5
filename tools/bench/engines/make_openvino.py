"""A folder for OpenVINO from a Hugging Face folder: make_openvino HF_FOLDER OUT WEIGHTS."""

import sys

from optimum.intel import OVModelForCausalLM

if __name__ == "__main__":
    model = OVModelForCausalLM.from_pretrained(
        sys.argv[1], export=True, compile=False, load_in_8bit=sys.argv[3] == "int8"
    )
    model.save_pretrained(sys.argv[2])
