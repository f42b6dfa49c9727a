package org.prge.data

/**
 * One encoded example.
 *
 * @property tokens the row.
 * @property label index of the right class or candidate; -1 where there is none, or none is known.
 * @property targets how many tokens at the row's end are to be learned; 0 with label words.
 * @property candidates a row for each answer to choose from, where there are some. The example itself is the right one.
 */
data class Example(
    val tokens: IntArray,
    val label: Int = -1,
    val targets: Int = 0,
    val candidates: List<Example> = emptyList(),
) {
    /** The rows that an evaluation runs. */
    val rows: List<Example> get() = candidates.ifEmpty { listOf(this) }

    override fun equals(other: Any?): Boolean =
        other is Example && tokens.contentEquals(other.tokens) && label == other.label && targets == other.targets &&
            candidates == other.candidates

    override fun hashCode(): Int = 31 * tokens.contentHashCode() + label
}
