package org.prge.data

/**
 * One encoded example.
 *
 * @property tokens the row.
 * @property label index of the right class or choice; -1 where there is none, or none is known.
 * @property targets how many tokens at the row's end are to be learned (language modelling only).
 * @property candidates one row for each choice, where there are choices. The example itself is then the right one.
 */
data class Example(
    val tokens: IntArray,
    val label: Int = -1,
    val targets: Int = 0,
    val candidates: List<Example> = emptyList(),
) {
    /** The rows that evaluation runs. */
    val rows: List<Example> get() = candidates.ifEmpty { listOf(this) }

    override fun equals(other: Any?) = other is Example && tokens.contentEquals(other.tokens) &&
        label == other.label && targets == other.targets && candidates == other.candidates

    override fun hashCode() = tokens.contentHashCode()
}
