package org.prge.app

import android.os.Handler
import android.os.Looper

/** Calls something twice a second on the main thread, between [start] and [stop]. */
class Watch(private val look: () -> Unit) {
    private val main = Handler(Looper.getMainLooper())
    private val again = object : Runnable {
        override fun run() {
            look()
            main.postDelayed(this, 500)
        }
    }

    fun start() = again.run()

    fun stop() = main.removeCallbacks(again)
}
