package org.prge.files

import java.math.BigDecimal
import java.math.MathContext
import java.math.RoundingMode
import kotlin.math.abs

private val WAYS = listOf(RoundingMode.HALF_EVEN, RoundingMode.UP, RoundingMode.DOWN)

/** A number as Python spells it. */
internal fun spelled(number: Double): String {
    if (number.isInfinite()) return if (number > 0) "Infinity" else "-Infinity"
    if (number == 0.0) return if (1 / number < 0) "-0.0" else "0.0"
    // The fewest digits that come back to the same number, and of those the nearest. Java's spelling has more at times.
    val exact = BigDecimal(number)
    val short = (1..17).asSequence().flatMap { digits -> WAYS.map { exact.round(MathContext(digits, it)) } }
        .first { it.toDouble() == number }.stripTrailingZeros()
    val text = written(short, 15)
    return if ('.' in text || 'e' in text) text else "$text.0"
}

/** A number from above 0 in six digits, as Python's format `g` spells it. */
internal fun rounded(number: Double): String =
    written(BigDecimal(number).round(MathContext(6, RoundingMode.HALF_EVEN)).stripTrailingZeros(), 5)

/** Digits without zeros at their end; with an exponent where that is below -4 or above [most]. */
private fun written(short: BigDecimal, most: Int): String {
    val exponent = short.precision() - short.scale() - 1
    if (exponent in -4..most) return short.toPlainString()
    val digits = short.unscaledValue().abs().toString()
    val sign = if (short.signum() < 0) "-" else ""
    val fraction = if (digits.length > 1) "." + digits.drop(1) else ""
    return "$sign${digits[0]}${fraction}e${if (exponent < 0) "-" else "+"}${"${abs(exponent)}".padStart(2, '0')}"
}
