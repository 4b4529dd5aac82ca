"""SeamlessM4T v1 and v2 (arXiv 2308.11596, 2312.05187). They translate; into the spoken language, they transcribe."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import AutoModelForSpeechSeq2Seq, ProcessorMixin

from hf_components.asr.family import Family, ask, place, rate_of

# ISO 639-1 code -> the checkpoints' code of three letters. Users may give either.
THREE_LETTERS = dict(
    re.findall(
        r"(\w+):(\w+)",
        """
    af:afr am:amh ar:arb as:asm az:azj be:bel bg:bul bn:ben bs:bos ca:cat cs:ces cy:cym da:dan de:deu el:ell en:eng
    es:spa et:est eu:eus fa:pes ff:fuv fi:fin fr:fra ga:gle gl:glg gu:guj he:heb hi:hin hr:hrv hu:hun hy:hye id:ind
    ig:ibo is:isl it:ita ja:jpn jv:jav ka:kat kk:kaz km:khm kn:kan ko:kor ky:kir lg:lug lo:lao lt:lit lv:lvs mk:mkd
    ml:mal mn:khk mr:mar ms:zlm mt:mlt my:mya nb:nob ne:npi nl:nld nn:nno no:nob ny:nya om:gaz or:ory pa:pan pl:pol
    ps:pbt pt:por ro:ron ru:rus sd:snd sk:slk sl:slv sn:sna so:som sr:srp sv:swe sw:swh ta:tam te:tel tg:tgk th:tha
    tl:tgl tr:tur uk:ukr ur:urd uz:uzn vi:vie yo:yor zh:cmn zu:zul""",
    )
)


class Seamless(Family):
    """The decoder's first token sets the language."""

    name = "SeamlessM4T"
    model_classes = dict.fromkeys(("seamless_m4t", "seamless_m4t_v2"), AutoModelForSpeechSeq2Seq)

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return ask(self.name, _request, processor, waveforms, language)

    def decode(self, model, processor, inputs, *, max_new_tokens, num_beams):
        inputs = place(inputs, model)
        language = processor.tokenizer.convert_ids_to_tokens(int(inputs.pop("decoder_input_ids")[0]))
        search = {} if num_beams is None else {"num_beams": num_beams}
        tokens = model.generate(**inputs, tgt_lang=language, max_new_tokens=max_new_tokens, do_sample=False, **search)
        return processor.batch_decode(tokens, skip_special_tokens=True)


def _request(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, torch.Tensor]:
    token = f"__{THREE_LETTERS.get(language, language)}__"
    if token not in processor.tokenizer.get_vocab():
        raise ValueError(f"its vocabulary has no {token}; give a code such as en or eng")
    first = torch.full((len(clips), 1), processor.tokenizer.convert_tokens_to_ids(token))
    return {
        **processor(audio=clips, sampling_rate=rate_of(processor), return_tensors="pt"),
        "decoder_input_ids": first,
    }
