package org.prge.app

import android.app.Application
import android.content.Context
import android.os.Handler
import android.os.Looper
import java.io.File
import java.io.IOException
import java.util.concurrent.Executors
import org.prge.UserError
import org.prge.program.ExecuTorch
import org.prge.program.Runtime

/** What all screens share: the files, the rules, the training, and one thread for what takes longer than a moment. */
open class App : Application() {
    val shelf by lazy { Shelf(filesDir) }
    val messages by lazy { Messages(File(filesDir, "data/messages.jsonl")) }
    val teacher by lazy { Teacher(::runtime) }
    val training by lazy { Training(teacher, ::rules, { phoneOf(this) }) }

    /** What the other thread is doing, as a string's number; 0 for nothing. Screens show it, also after a rotation. */
    var busyWith = 0
        private set
    private val thread = Executors.newSingleThreadExecutor()
    private val main = Handler(Looper.getMainLooper())

    /** The kept rules. */
    var rules: Rules
        get() = getSharedPreferences("rules", Context.MODE_PRIVATE).run {
            val usual = Rules()
            Rules(
                getBoolean("charging", usual.onlyCharging), getInt("battery", usual.leastBattery),
                getInt("warmest", usual.warmest), getInt("minutes", usual.mostMinutes),
            )
        }
        set(rules) = getSharedPreferences("rules", Context.MODE_PRIVATE).edit().run {
            putBoolean("charging", rules.onlyCharging).putInt("battery", rules.leastBattery)
            putInt("warmest", rules.warmest).putInt("minutes", rules.mostMinutes).apply()
        }

    /** Does [work] on the other thread, then tells the main one what came of it, or the sentence of what went wrong. */
    fun <T> later(what: Int, work: () -> T, failed: (String) -> Unit, then: (T) -> Unit) {
        busyWith = what
        thread.execute {
            val tell: () -> Unit = try {
                work().let { { then(it) } }
            } catch (e: UserError) {
                { failed(e.message!!) }
            } catch (e: IOException) {
                { failed(getString(R.string.cannot_read, e.message)) }
            } catch (e: OutOfMemoryError) {
                { failed(getString(R.string.no_memory)) }
            }
            main.post {
                busyWith = 0
                tell()
            }
        }
    }

    /** Where programs run. Native code that the processor cannot execute would end the app, so it is not loaded then. */
    open fun runtime(): Runtime {
        val lacks = Processor.lacks(cpuinfo())
        if (lacks.isNotEmpty()) throw UserError(getString(R.string.too_old, lacks.joinToString()))
        return ExecuTorch()
    }
}

val Context.app: App get() = applicationContext as App

fun cpuinfo(): String = try {
    File("/proc/cpuinfo").readText()
} catch (e: IOException) {
    ""
}
