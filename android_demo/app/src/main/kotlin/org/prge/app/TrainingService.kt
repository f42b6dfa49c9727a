package org.prge.app

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder
import android.os.PowerManager

/**
 * Keeps the process alive, and the processor awake, while [Training] is active; its notification shows how far it is and
 * stops it. If the system ends the process all the same, the first screen offers to go on: every step is on disk.
 */
class TrainingService : Service() {
    private val watch = Watch(::refresh)
    private lateinit var awake: PowerManager.WakeLock
    private var shown: Now? = null

    override fun onCreate() {
        awake = getSystemService(PowerManager::class.java).newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "prge:training")
        getSystemService(NotificationManager::class.java).createNotificationChannel(
            NotificationChannel(CHANNEL, getString(R.string.channel), NotificationManager.IMPORTANCE_LOW),
        )
    }

    override fun onStartCommand(intent: Intent?, flags: Int, id: Int): Int {
        if (intent?.action == STOP) app.training.stop()
        else intent?.getStringExtra(RUN)?.let { app.training.start(app.shelf.run(it)) }
        val notification = notification(app.training.now)
        if (Build.VERSION.SDK_INT >= 34) startForeground(1, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE)
        else startForeground(1, notification)
        watch.stop()
        watch.start()
        // A process that was ended while the phone ran out of memory would be ended again: its owner decides.
        return START_NOT_STICKY
    }

    private fun refresh() {
        val now = app.training.now
        // Nothing runs while it waits; then the phone may sleep between two looks.
        val works = now.phase is Phase.Steps || now.phase is Phase.Loading || now.phase is Phase.Reading
        if (works && !awake.isHeld) awake.acquire()
        if (!works && awake.isHeld) awake.release()
        if (now !== shown) getSystemService(NotificationManager::class.java).notify(1, notification(now))
        shown = now
        if (!now.phase.active) {
            stopForeground(STOP_FOREGROUND_DETACH)
            stopSelf()
        }
    }

    private fun notification(now: Now): Notification {
        val open = PendingIntent.getActivity(
            this, 0, Intent(this, TrainingActivity::class.java), PendingIntent.FLAG_IMMUTABLE,
        )
        val stop = PendingIntent.getService(
            this, 0, Intent(this, TrainingService::class.java).setAction(STOP), PendingIntent.FLAG_IMMUTABLE,
        )
        val course = now.course
        return Notification.Builder(this, CHANNEL).apply {
            setSmallIcon(R.drawable.mark)
            setContentTitle(getString(R.string.training_run, now.run?.name ?: ""))
            setContentText(
                if (now.phase == Phase.Steps && course != null) getString(R.string.step_of, course.done, course.steps)
                else words(now.phase),
            )
            setContentIntent(open)
            setOnlyAlertOnce(true)
            setOngoing(now.phase.active)
            if (!now.phase.active) return@apply
            setProgress(course?.steps ?: 0, course?.done ?: 0, course == null)
            addAction(Notification.Action.Builder(null, getString(R.string.stop), stop).build())
        }.build()
    }

    override fun onDestroy() {
        watch.stop()
        if (awake.isHeld) awake.release()
    }

    override fun onBind(intent: Intent?): IBinder? = null

    companion object {
        private const val CHANNEL = "training"
        private const val STOP = "org.prge.app.STOP"
        private const val RUN = "run"

        /** Begins a run, or goes on with it. */
        fun start(context: Context, run: Kept) {
            context.startForegroundService(Intent(context, TrainingService::class.java).putExtra(RUN, run.name))
        }
    }
}
