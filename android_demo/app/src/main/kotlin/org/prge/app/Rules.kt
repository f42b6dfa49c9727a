package org.prge.app

/**
 * What the phone's owner allows.
 *
 * @property onlyCharging train only on the charger.
 * @property leastBattery in percent; below it training waits, unless the phone charges.
 * @property warmest the highest [Phone.heat] at which training goes on.
 * @property mostMinutes of training at a time; 0 for as many as it takes.
 */
data class Rules(
    val onlyCharging: Boolean = true,
    val leastBattery: Int = 30,
    val warmest: Int = Phone.WARM,
    val mostMinutes: Int = 0,
) {
    /** Whether training may go on, on a phone that is as [phone] says, after so many minutes of it. */
    fun verdict(phone: Phone, minutes: Double): Verdict = when {
        mostMinutes in 1..minutes.toInt() -> Verdict.TIME_IS_UP
        onlyCharging && !phone.charging -> Verdict.NEEDS_CHARGER
        !phone.charging && phone.battery < leastBattery -> Verdict.BATTERY_LOW
        phone.heat > warmest -> Verdict.TOO_WARM
        else -> Verdict.GO
    }
}

/** TIME_IS_UP ends the training for now; the others but GO make it wait. */
enum class Verdict { GO, NEEDS_CHARGER, BATTERY_LOW, TOO_WARM, TIME_IS_UP }

/**
 * How the phone is.
 *
 * @property battery in percent.
 * @property heat Android's thermal status, from 0 (none) to 6 (it shuts down).
 */
data class Phone(val charging: Boolean, val battery: Int, val heat: Int) {
    companion object {
        /** The thermal status at which the processor is slowed down, but nobody notices yet. */
        const val WARM = 1
    }
}
