package org.prge.app

import java.io.File
import java.io.IOException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.prge.loop.Best
import org.prge.loop.Evaluation

/**
 * The course of a run so far, in what a screen shows.
 *
 * @property steps of the whole run.
 * @property losses of each step, of the batch before the step; NaN where it was not finite.
 * @property checks evaluations, by how many steps were made before them.
 * @property seconds of each step.
 */
data class Course(
    val steps: Int,
    val losses: List<Double> = emptyList(),
    val checks: List<Pair<Int, Evaluation>> = emptyList(),
    val seconds: List<Double> = emptyList(),
) {
    val done get() = losses.size

    /** Of the last steps, which say better than all of them how fast the phone is now. Null before the first one. */
    val stepsPerSecond: Double?
        get() = seconds.takeLast(RECENT).takeIf { it.isNotEmpty() }?.let { it.size / it.sum() }

    /** Without evaluations; null where it cannot be said. */
    val secondsLeft: Double? get() = stepsPerSecond?.let { (steps - done) / it }

    /** The evaluation before the first step. */
    val before: Evaluation? get() = checks.firstOrNull { it.first == 0 }?.second

    /** The evaluation whose state the run keeps. */
    val best: Evaluation?
        get() {
            val best = Best()
            for ((steps, found) in checks) best.note(steps, found)
            return best.evaluation?.takeIf { it.loss.isFinite() }
        }

    fun and(step: Int, loss: Double, seconds: Double, before: Evaluation?, dev: Evaluation?) = copy(
        losses = losses + loss,
        checks = checks + listOfNotNull(before?.let { 0 to it }, dev?.let { step + 1 to it }),
        seconds = this.seconds + seconds,
    )

    companion object {
        private const val RECENT = 20

        /**
         * Reads a run's description and its journal; null where it has not begun.
         *
         * This is for the eye alone: it stops at a line that it cannot read, such as one that is being written. The
         * driver checks the journal when the run goes on.
         */
        fun read(run: File): Course? = try {
            val asked = Json.parseToJsonElement(File(run, "config.json").readText()).jsonObject
            var course = Course(asked.getValue("train").jsonObject.getValue("steps").jsonPrimitive.int)
            for (line in File(run, "log.jsonl").readLines()) course = course.and(line) ?: break
            course
        } catch (e: IOException) {
            null
        } catch (e: IllegalArgumentException) { // no JSON, or not this one
            null
        } catch (e: NoSuchElementException) {
            null
        }

        private fun Course.and(line: String): Course? = try {
            val row = Json.parseToJsonElement(line).jsonObject
            and(
                row.getValue("step").jsonPrimitive.int, row.number("loss"), row.number("seconds"),
                row["before"]?.let(::evaluation), row["dev"]?.let(::evaluation),
            )
        } catch (e: IllegalArgumentException) {
            null
        } catch (e: NoSuchElementException) {
            null
        }

        private fun evaluation(json: JsonElement) =
            Evaluation(json.jsonObject.number("loss"), json.jsonObject["accuracy"]?.jsonPrimitive?.doubleOrNull)

        /** A number that was not finite is null in a journal. */
        private fun JsonObject.number(name: String) = getValue(name).jsonPrimitive.doubleOrNull ?: Double.NaN
    }
}
