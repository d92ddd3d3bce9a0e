// Package placefile reads the files in which users say which rank lies where.
package placefile
