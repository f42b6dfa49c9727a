package org.prge

/** A sentence for the person who uses the app: what was wrong, where, and what to do. */
class UserError(message: String) : Exception(message)
