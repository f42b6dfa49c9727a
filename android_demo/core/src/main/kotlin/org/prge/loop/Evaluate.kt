package org.prge.loop

import java.util.IdentityHashMap
import org.prge.data.Example
import org.prge.program.Manifest
import org.prge.program.Result
import org.prge.program.StepProgram

/**
 * How good a state is on some examples.
 *
 * @property loss mean over the examples.
 * @property accuracy share of right answers; null where there is nothing to choose.
 */
data class Evaluation(val loss: Double, val accuracy: Double?)

/**
 * What a state answers.
 *
 * @property answer index of the class or of the candidate; null where there is nothing to choose.
 * @property scores f32[K] of what there is to choose from, the higher the better: the label words' logits, or the
 *     candidates' losses with their signs turned.
 * @property loss of the example, or of its right candidate (the first one, where none is known).
 */
class Prediction(val answer: Int?, val scores: FloatArray, val loss: Float)

/**
 * Evaluates a state with the step itself: eps and lr are 0, and each of the R rows is another example.
 *
 * @param state f32[state_size].
 * @param examples one or more, with the right labels.
 * @param progress hears how many rows are done, and of how many.
 */
fun evaluate(
    program: StepProgram, state: FloatArray, examples: List<Example>, progress: (Int, Int) -> Unit = { _, _ -> },
): Evaluation = mean(predict(program, state, examples, progress), examples)

/** As [evaluate], but the answer to each example; their labels may be unknown. */
fun predict(
    program: StepProgram, state: FloatArray, examples: List<Example>, progress: (Int, Int) -> Unit = { _, _ -> },
): List<Prediction> =
    predictBy(program.manifest, examples, progress) { rows -> program.execute(rows, state, 0, 0.0, 0.0) }

/** [predict] by a function that executes R rows. */
internal fun predictBy(
    m: Manifest, examples: List<Example>, progress: (Int, Int) -> Unit, execute: (List<Example>) -> Result,
): List<Prediction> {
    class Given(val loss: Float, val scores: FloatArray)
    val given = IdentityHashMap<Example, Given>()
    // Rows of like length share an execution; the last one is filled up by repetition.
    val rows = examples.flatMap { it.rows }.sortedBy { it.tokens.size }
    for (start in rows.indices step m.rows) {
        val count = minOf(m.rows, rows.size - start)
        val result = execute(List(m.rows) { rows[start + it % count] })
        val each = result.scores.size / m.rows
        for (i in 0 until count)
            given[rows[start + i]] = Given(result.losses[i], result.scores.copyOfRange(i * each, (i + 1) * each))
        progress(start + count, rows.size)
    }
    return examples.map { e ->
        val own = e.rows.map { given.getValue(it) }
        val scores = if (e.candidates.isEmpty()) own[0].scores else FloatArray(own.size) { -own[it].loss }
        val right = if (e.candidates.isEmpty()) 0 else maxOf(e.label, 0)
        Prediction(highest(scores), scores, own[right].loss)
    }
}

/** The evaluation that predictions come to. */
internal fun mean(predictions: List<Prediction>, examples: List<Example>): Evaluation {
    var sum = 0.0
    for (one in predictions) sum += one.loss
    val right = predictions.indices.count { predictions[it].answer == examples[it].label }
    val accuracy = if (predictions.all { it.answer != null }) right.toDouble() / examples.size else null
    return Evaluation(sum / examples.size, accuracy)
}

/** The first place of the highest score; null of none. */
private fun highest(scores: FloatArray): Int? {
    var best = 0
    for (i in scores.indices) if (scores[i] > scores[best]) best = i
    return if (scores.isEmpty()) null else best
}
