package org.prge.tokenizer

import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.intOrNull
import org.prge.files.Odd

/** The special tokens around every text. */
internal class Frame(val before: IntArray = IntArray(0), val behind: IntArray = IntArray(0)) {
    /** This frame inside another one. */
    fun within(outer: Frame) = Frame(outer.before + before, behind + outer.behind)
}

/** The frame that a tokenizer.json's post-processor makes. */
internal fun frame(part: Part): Frame = when (part.type) {
    "Sequence" -> part.only("type", "processors").parts("processors").map(::frame).fold(Frame(), Frame::within)
    "ByteLevel" -> part.only("type", "add_prefix_space", "trim_offsets", "use_regex").let { Frame() }
    "BertProcessing", "RobertaProcessing" -> {
        part.only("type", "sep", "cls", "trim_offsets", "add_prefix_space")
        Frame(intArrayOf(named(part, "cls")), intArrayOf(named(part, "sep")))
    }
    "TemplateProcessing" -> template(part)
    else -> unknown("${part.place} of the type \"${part.type}\"")
}

private fun template(part: Part): Frame {
    part.only("type", "single", "pair", "special_tokens")
    val tokens = part.part("special_tokens")
    val (before, behind) = Numbers() to Numbers()
    var text = 0
    for (piece in part.parts("single")) {
        piece.only("Sequence", "SpecialToken")
        if (piece.given("Sequence") != null) {
            val id = piece.part("Sequence").text("id")
            if (id != "A") unknown("${piece.place}.Sequence \"$id\"")
            text++
        } else {
            val name = piece.part("SpecialToken").text("id")
            for (number in tokens.part(name).list("ids")) (if (text == 0) before else behind) += whole(number)
        }
    }
    if (text != 1) throw Odd("its ${part.place} holds the text $text times, not once")
    return Frame(before.toArray(), behind.toArray())
}

/** The number of a pair like ["[SEP]", 102]. */
private fun named(part: Part, name: String): Int = whole(part.list(name).getOrNull(1))

private fun whole(number: JsonElement?): Int =
    (number as? JsonPrimitive)?.takeIf { !it.isString }?.intOrNull?.takeIf { it >= 0 }
        ?: throw Odd("its post_processor gives a token the number $number")
