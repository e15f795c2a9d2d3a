"""The page's words, in the languages that it speaks."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.errors import CaptionServeError
from serve_app.types import STRATEGIES

LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文"}
DEFAULT = "en"

_EN = {
    "title": "What is in this picture?",
    "lead": "Give it an image and read a detailed description, made of several captions.",
    "demonstration": "Demonstration model: it knows drawn scenes of 120 objects. "
    "For photographs start the service with another model: make run MODEL=…",
    "served_by": "Model: {model}",
    "waiting": "The service is not ready yet. Try again in a moment.",
    "language": "Language",
    "tab_caption": "One image",
    "tab_batch": "Several images",
    "tab_answers": "Ask",
    "tab_matches": "Compare with texts",
    "question": "Question",
    "question_example": "How many dogs are there?",
    "question_run": "Ask",
    "no_question": "Write a question first.",
    "texts": "Texts, one a line",
    "texts_example": "a dog on the grass",
    "texts_run": "Compare",
    "no_texts": "Write a text first.",
    "question_empty": "The answer appears here.",
    "texts_empty": "How well each text fits the image appears here.",
    "answer": "Answer",
    "sure": "The model's probability is {share}.",
    "text": "Text",
    "match": "Match",
    "similarity": "Similarity",
    "image": "Image",
    "image_drop": "Drop an image here, or click to choose one. You can also paste one.",
    "samples": "Or try one of these",
    "detail": "Detail",
    "detail_high": "High (recommended)",
    "detail_medium": "Medium",
    "detail_low": "Low",
    "multi_round": "Add details in further rounds",
    "multi_round_info": "Off: one round, whatever the detail.",
    "more": "More options",
    "strategy": "Strategy",
    "max_words": "Most words",
    "max_words_info": "0: no limit. Otherwise the best supported statements that fit.",
    "seed": "Seed",
    "seed_info": "The same image, options and seed give the same caption.",
    "run": "Describe",
    "stop": "Stop",
    "copy": "Copy caption",
    "empty": "The description appears here.",
    "no_image": "Choose an image first.",
    "starting": "Sending the image",
    "variant": "Variant {n}",
    "merge": "Merging the variants",
    "merged": "Variants merged",
    "extension": "Extended",
    "round": "Round {n}",
    "failed": "no answer",
    "accepted": "accepted",
    "kept": "nothing better found",
    "stopped": "Stopped.",
    "caption": "Description",
    "no_caption": "The model found no words for this image.",
    "characters": "characters",
    "words": "words",
    "seconds": "seconds",
    "how": "How this caption was made",
    "variants": "Variants",
    "rounds": "Rounds",
    "contested": "Statements that contradict others",
    "answers": "Questions that were asked",
    "said": "in the caption",
    "unsaid": "not in the caption",
    "left_out": "Left out: {statement}",
    "against": "Against: {statement}",
    "legend": "The colour of a part shows how well the image supports it. Point at a part to see where it comes from.",
    "weighed": "weighed as: {statement}",
    "whole": "weighed in one piece: {statement}",
    "no_prompt": "without a prompt",
    "score_none": "not scored",
    "score": "score {score}",
    "source_variant": "variant {n}",
    "source_extension": "extension {n}",
    "source_round": "round {n}",
    "source_answer": "answer {n}",
    "source_all": "words of all variants",
    "degraded": "Missing:",
    "notices": "Good to know:",
    "error": "That did not work",
    "error_page": "The page lost touch with the service; please try again.",
    "error_upload": "The file did not arrive; please choose it again.",
    "files": "Images",
    "run_batch": "Describe all",
    "no_files": "Choose images first.",
    "too_many": "At most {most} images at a time; {given} were chosen.",
    "batch_empty": "Results appear here as they finish.",
    "file": "File",
    "result": "Description",
    "done_of": "{done} of {all} finished",
    "in_work": "in progress",
    "queued": "waiting",
    "csv": "Download CSV",
    "jsonl": "Download JSONL",
}
_ZH = {
    "title": "这张图片里有什么？",
    "lead": "选一张图片，即可得到由多条描述合并而成的详细说明。",
    "demonstration": "演示模型：它只认识由 120 种物体画成的场景。要描述照片，请用其他模型启动服务：make run MODEL=…",
    "served_by": "模型：{model}",
    "waiting": "服务尚未就绪，请稍后再试。",
    "language": "语言",
    "tab_caption": "单张图片",
    "tab_batch": "多张图片",
    "tab_answers": "提问",
    "tab_matches": "图文匹配",
    "question": "问题",
    "question_example": "How many dogs are there?",
    "question_run": "提问",
    "no_question": "请先写下问题。",
    "texts": "文字，每行一条",
    "texts_example": "a dog on the grass",
    "texts_run": "比较",
    "no_texts": "请先写下文字。",
    "question_empty": "回答会显示在这里。",
    "texts_empty": "每条文字与图片的匹配程度会显示在这里。",
    "answer": "回答",
    "sure": "模型认为其成立的概率为 {share}。",
    "text": "文字",
    "match": "匹配度",
    "similarity": "相似度",
    "image": "图片",
    "image_drop": "把图片拖到这里，或点击选择，也可以直接粘贴。",
    "samples": "或者试试这些图片",
    "detail": "详细程度",
    "detail_high": "高（推荐）",
    "detail_medium": "中",
    "detail_low": "低",
    "multi_round": "多轮补充细节",
    "multi_round_info": "关闭后只进行一轮，不受详细程度影响。",
    "more": "更多选项",
    "strategy": "策略",
    "max_words": "最多词数",
    "max_words_info": "0 表示不限；否则只保留放得下且最有依据的陈述。",
    "seed": "随机种子",
    "seed_info": "图片、选项和种子相同，结果就相同。",
    "run": "生成描述",
    "stop": "停止",
    "copy": "复制描述",
    "empty": "描述会显示在这里。",
    "no_image": "请先选择一张图片。",
    "starting": "正在发送图片",
    "variant": "变体 {n}",
    "merge": "正在合并变体",
    "merged": "变体已合并",
    "extension": "扩展",
    "round": "第 {n} 轮",
    "failed": "没有结果",
    "accepted": "已采用",
    "kept": "没有更好的内容",
    "stopped": "已停止。",
    "caption": "描述",
    "no_caption": "模型没有给出描述。",
    "characters": "字符",
    "words": "词",
    "seconds": "秒",
    "how": "生成过程",
    "variants": "变体",
    "rounds": "各轮",
    "contested": "相互矛盾的陈述",
    "answers": "提出的问题",
    "said": "已写入描述",
    "unsaid": "未写入描述",
    "left_out": "未采用：{statement}",
    "against": "与之矛盾：{statement}",
    "legend": "颜色表示图片对各部分内容的支持程度。将指针移到某一部分上，可查看其来源。",
    "weighed": "评估的陈述：{statement}",
    "whole": "整体评估：{statement}",
    "no_prompt": "无提示词",
    "score_none": "未评分",
    "score": "评分 {score}",
    "source_variant": "变体 {n}",
    "source_extension": "扩展 {n}",
    "source_round": "第 {n} 轮",
    "source_answer": "回答 {n}",
    "source_all": "所有变体共有的词",
    "degraded": "缺少：",
    "notices": "说明：",
    "error": "没有成功",
    "error_page": "页面与服务失去联系，请重试。",
    "error_upload": "文件没有上传成功，请重新选择。",
    "files": "图片",
    "run_batch": "全部生成",
    "no_files": "请先选择图片。",
    "too_many": "一次最多 {most} 张图片，您选了 {given} 张。",
    "batch_empty": "完成后结果会逐行显示在这里。",
    "file": "文件",
    "result": "描述",
    "done_of": "已完成 {done} / {all}",
    "in_work": "处理中",
    "queued": "等待中",
    "csv": "下载 CSV",
    "jsonl": "下载 JSONL",
}
TEXTS: Mapping[str, Mapping[str, str]] = {"en": _EN, "zh": _ZH}

_ERRORS_ZH = {
    "InvalidImage": "无法读取这张图片，文件可能已损坏。",
    "UnsupportedImage": "不支持这种文件格式，请使用 JPEG、PNG、WebP、GIF、BMP、TIFF 或 AVIF 图片。",
    "ImageTooLarge": "图片太大，超出了服务的限制。",
    "DeadlineExceeded": "在得到描述之前时间已用完，请重试或降低详细程度。",
    "Overloaded": "服务正忙，请稍后再试。",
    "NotDeployed": "此服务没有部署这项功能。",
    "GeneratorUnavailable": "模型暂时没有响应，请稍后再试。",
    "GenerationFailed": "模型在生成时出错，请重试。",
}


_STRATEGIES_ZH = {
    "grounded": "求证：只写图片支持的内容",
    "classic": "经典：多个变体、合并、多轮",
    "basic": "基本：一条简短描述",
}


def has_text(key: str) -> bool:
    return key in _EN


def text(language: str, key: str, **values: object) -> str:
    """The words for `key`; in English if the language is unknown."""
    return TEXTS.get(language, _EN)[key].format(**values)


def strategy_text(language: str, name: str) -> str:
    """The label of a strategy: in English if nobody translated it, its name if it is unknown here."""
    if language == "zh" and name in _STRATEGIES_ZH:
        return _STRATEGIES_ZH[name]
    sentence = next((sentence for each, sentence in STRATEGIES.items() if each == name), None)
    return name if sentence is None else f"{name.capitalize()}: {sentence}"


def error_text(language: str, error: CaptionServeError) -> str:
    """One sentence about an error; the service's own English one if there is no translation."""
    if language == "zh":
        return _ERRORS_ZH.get(type(error).__name__, error.message)
    return error.message


def language_of(accepted: str | None) -> str:
    """The language of the page for an `Accept-Language` header."""
    wanted: list[tuple[float, str]] = []
    for entry in (accepted or "").split(","):
        tag, _, quality = entry.strip().partition(";q=")
        language = tag.split("-")[0].lower()
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        if language in LANGUAGES and weight > 0:
            wanted.append((weight, language))
    return max(wanted, key=lambda pair: pair[0])[1] if wanted else DEFAULT
