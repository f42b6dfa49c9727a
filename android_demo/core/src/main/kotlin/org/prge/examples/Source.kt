package org.prge.examples

import java.io.File
import org.prge.UserError
import org.prge.data.Example

/**
 * What a run learns from.
 *
 * @property dropped how many training examples were left out because their text is in [dev].
 */
class Divided(val train: List<Example>, val dev: List<Example>, val dropped: Int)

/**
 * Where a run's examples come from.
 *
 * @property train the examples' file.
 * @property dev examples to evaluate on; null for a share of the others.
 * @property devFraction that share; 0 for no evaluation.
 * @property seed of the split.
 */
class Source(
    private val train: File, private val dev: File? = null, private val devFraction: Double = 0.2,
    private val seed: Int = 0,
) {
    /**
     * Reads and encodes the examples. They are divided as `prge train` divides them.
     *
     * @throws UserError a file cannot be read or encoded, no example is left to train on, or all have one class.
     */
    fun read(encoder: Encoder): Divided {
        val form = encoder.form
        var records = encoder.records(train)
        var held = dev?.let(encoder::records).orEmpty()
        if (dev == null) for (r in records) form.text(r.record, place(train, r)) // names the line
        if (dev == null && devFraction > 0) {
            split(records, { form.text(it) }, devFraction, seed, form::classOf).let { (kept, aside) ->
                records = kept
                held = aside
            }
        }
        val examples = encoder.encodeAll(records, train)
        // The share of a small file may be a single text, with nothing to learn.
        val devExamples = encoder.encodeAll(held, dev ?: train, required = dev != null)
        val known = devExamples.map { it.tokens.asList() }.toSet()
        val kept = examples.filter { it.tokens.asList() !in known }
        if (kept.isEmpty()) throw UserError("$train: no example is left to train on beside those of the dev set")
        val labels = form.labels
        if (labels.isNotEmpty() && kept.all { it.label == kept[0].label }) {
            throw UserError(
                "$train: every example has the label '${labels[kept[0].label]}'; training needs at least two classes"
            )
        }
        return Divided(kept, devExamples, examples.size - kept.size)
    }
}

/**
 * (train, dev): a share of the distinct texts goes to dev. Equal texts are on the same side, and so are all records of
 * one row. A class of which a side has no text is given one, where the class has several.
 *
 * @param text what two equal records have in common.
 * @param ofClass a record's class.
 */
internal fun split(
    records: List<Numbered>, text: (Record) -> String, fraction: Double, seed: Int,
    ofClass: (Record) -> String = { "" },
): Pair<List<Numbered>, List<Numbered>> {
    val first = HashMap<Int, String>()
    val classes = LinkedHashMap<String, LinkedHashSet<String>>()
    for (r in records) {
        if (r.number in first) continue
        first[r.number] = text(r.record)
        classes.getOrPut(ofClass(r.record), ::LinkedHashSet).add(first.getValue(r.number))
    }
    val distinct = records.map { first.getValue(it.number) }.distinct().toMutableList()
    Twister(seed).shuffle(distinct)
    val dev = distinct.take(maxOf(1, Math.rint(distinct.size * fraction).toInt())).toMutableSet()
    val order = distinct.withIndex().associate { (i, it) -> it to i }
    for (texts in if (classes.size > 1) classes.values else emptyList()) {
        val ranked = texts.sortedBy(order::getValue)
        if (ranked.size > 1 && ranked.none(dev::contains)) {
            dev += ranked.first()
        } else if (ranked.size > 1 && dev.containsAll(ranked)) {
            dev -= ranked.last()
        }
    }
    return records.partition { first[it.number] !in dev }
}
